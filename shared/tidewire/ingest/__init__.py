"""Events from other services: webhooks, mapping rules, EventBridge, dead letters."""
