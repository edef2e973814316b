"""Alert rules, the outbox and the delivery channels."""
