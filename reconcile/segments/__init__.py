"""Audience Manager's outbound exports: from devices and their segments back to the customers of a data source."""
