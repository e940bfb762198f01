"""Tests of mailflow. A package, so that helpers here are imported as `tests.servers` wherever a test lies."""
