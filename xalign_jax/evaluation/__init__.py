"""What a trained model can do: probes, and what they share."""
