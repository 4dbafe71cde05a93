"""What every model family shares on the device. It knows no family and no framework."""
