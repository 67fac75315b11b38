"""Which pool a runner belongs to.

Its accelerator's product and the models that it may load come in; the pool's name goes out. Runners of one pool are interchangeable.
"""

import hashlib
import re
from collections.abc import Iterable


def name(product: str, models: Iterable[str]) -> str:
    """Name the pool: "nvidia-h200-1a2b3c4d", a slug of the product and a digest of the sorted models."""
    slug = re.sub(r"[^a-z0-9]+", "-", product.lower()).strip("-")[:40] or "device"
    digest = hashlib.sha256("\n".join(sorted(set(models))).encode()).hexdigest()
    return f"{slug}-{digest[:8]}"
