"""Models and an index for other programs: over HTTP (extra ``serve``), and as tools of agents (extra ``mcp``)."""
