"""The time account: whose time the engine's busy time was.

In: measured busy time in integer microseconds. Out: shares that add up to the whole, exactly. Next: `generation`
collects its shares as usage; what nobody is charged for stays with the platform. `Tenants` remembers what each tenant
has had, so that those who had least go first.
"""

import collections


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

    def forfeit(self, share_us: int) -> None:
        """Move a share that was booked already to the platform's account."""
        self.platform_us += share_us


class Tenants:
    """Device time of the tenants that are here; who comes, or comes back, begins with the least of the others."""

    def __init__(self) -> None:
        self._used_us: dict[str, int] = {}
        self._generations: collections.Counter[str] = collections.Counter()

    def enter(self, tenant_id: str) -> None:
        """Count one more generation of a tenant."""
        self._used_us.setdefault(tenant_id, min(self._used_us.values(), default=0))
        self._generations[tenant_id] += 1

    def leave(self, tenant_id: str) -> None:
        """Count one less; a tenant without any is forgotten."""
        self._generations[tenant_id] -= 1
        if not self._generations[tenant_id]:
            del self._generations[tenant_id], self._used_us[tenant_id]

    def use(self, tenant_id: str, share_us: int) -> None:
        """Add what a tenant that is here has had."""
        self._used_us[tenant_id] += share_us

    def used_us(self, tenant_id: str) -> int:
        """Return what a tenant that is here has had."""
        return self._used_us[tenant_id]
