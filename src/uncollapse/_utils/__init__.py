"""Small tools below all rooms; nothing here knows a model."""
