"""The real engine of the outer loop under simulated time: one process, one seed, no real sleep and no real socket."""
