"""What each path of the server is answered with."""
