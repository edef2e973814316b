"""What people write about Bitcoin: articles, posts and their sentiment."""
