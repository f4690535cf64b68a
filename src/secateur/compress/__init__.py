"""The method: the only place where gates, cost and objective meet."""
