"""The time account: whose time the engine's busy time was.

In: measured busy time in integer microseconds. Out: shares that add up to the whole, exactly. Next: `generation`
collects its shares as usage; what nobody is charged for stays with the platform.
"""


class Account:
    """The engine's busy time, and the platform's part of it."""

    def __init__(self) -> None:
        self.busy_us = 0
        self.platform_us = 0

    def share(self, whole_us: int, parts: int) -> list[int]:
        """Book `whole_us` and split it equally; the first parts carry what does not divide."""
        self.busy_us += whole_us
        each, left = divmod(whole_us, parts)
        return [each + (part < left) for part in range(parts)]

    def platform(self, whole_us: int) -> None:
        """Book `whole_us` on the platform's own account: loading, and work that failed."""
        self.busy_us += whole_us
        self.platform_us += whole_us
