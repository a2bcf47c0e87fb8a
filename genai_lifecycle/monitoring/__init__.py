"""Quality over time: what the servers' traces and feedback say, and whether it still is as it was evaluated."""
