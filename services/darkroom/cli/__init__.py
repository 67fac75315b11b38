"""The command's words, one file each; `app` lists them, `connection` finds the platform, `show` draws what people look at."""
