"""Trained models as folders that other software loads."""
