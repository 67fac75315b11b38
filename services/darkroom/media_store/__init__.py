"""Inputs and artifacts of tenants: typed by content, kept for as long as they should be, read as streams or by URL."""
