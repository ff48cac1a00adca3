"""The outer loop of one worker: its fragments, their windows, and their state."""
