"""Sources of articles and posts, one file per source."""
