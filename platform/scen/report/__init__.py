"""A store as one page of HTML, for people without MLflow. No base is loaded, nothing is fetched."""
