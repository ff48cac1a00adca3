"""The paper's claims as statements about numbers, and whether runs bear them out."""
