"""Parts shared by configs and sweeps: one recipe for each method, and the tables of the paper's runs."""
