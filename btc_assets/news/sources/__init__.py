"""Where articles and posts come from, one file a source."""
