"""The rooms that the scheduler calls, one file per room: the only files with their stubs."""
