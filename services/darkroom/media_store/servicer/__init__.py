"""How media is asked for: `rpcs` over gRPC, `files` over HTTP by signed URLs."""
