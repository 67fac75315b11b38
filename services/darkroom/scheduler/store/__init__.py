"""What must survive a restart of the scheduler: the only files with SQL.

Servicers and loops come in; rows of `migrations/` go out as the nouns of `domain`. One file per table or purpose. Functions that
take a `connection` are parts of their caller's transaction; methods of a class open their own.
"""
