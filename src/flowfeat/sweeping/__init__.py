"""Sweeps: the grid of a W&B sweep file as trainings and evaluations of this machine."""
