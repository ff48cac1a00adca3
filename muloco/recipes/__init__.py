"""What configs and sweeps are made of: one recipe for each method, and the tables of the paper's runs."""
