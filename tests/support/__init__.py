"""What several tests share: contracts, pages, stand-ins of servers."""
