"""What must survive a restart: PostgreSQL, one file for each noun."""
