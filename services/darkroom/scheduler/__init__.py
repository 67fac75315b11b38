"""The scheduler: accepts generations, keeps them, places them on runners and tells what became of them. See README.md."""
