"""Who pays: tenants, keys, prices, and the ledger of what everything cost."""
