"""The scheduler's RPCs, one file per service: check, call, translate."""
