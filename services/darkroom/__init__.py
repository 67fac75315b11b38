"""Darkroom serves diffusion models on your own GPUs and bills every request.

A folder here is a room (a service), a file is shared by all rooms, and `api` is generated from the protos.
"""
