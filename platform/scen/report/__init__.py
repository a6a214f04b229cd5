"""A report of a store as one HTML page, for use without MLflow. Loads no base, fetches nothing."""
