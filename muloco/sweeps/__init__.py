"""Many runs: the cluster, its jobs, and grids of them."""
