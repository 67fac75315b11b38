"""The scheduler's outside world without GPU, cluster or network, computable by hand; real gRPC is spoken to it."""
