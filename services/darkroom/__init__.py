"""Darkroom: serves diffusion models on your own GPUs and bills every request. A folder is a room, a file is shared by
all.
"""
