"""Adapters (LoRAs) of tenants: pushed, strictly checked, stored, pulled by runners."""
