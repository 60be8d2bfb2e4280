"""Does the policy use its crops? Episodes under replaced crops, and what they are measured by."""
