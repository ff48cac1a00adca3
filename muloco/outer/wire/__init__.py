"""Connections between workers that are processes: torchft, gloo and NCCL, HTTP, and gates between machines."""
