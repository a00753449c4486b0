"""From single results to what people read: the summary, its pages, tables and figures."""
