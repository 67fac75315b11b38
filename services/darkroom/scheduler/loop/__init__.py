"""The scheduler's background work, one file per duty; each is a coroutine that runs until it is cancelled."""
