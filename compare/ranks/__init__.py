"""One run on several processes: who is who, and what tells that one has gone."""
