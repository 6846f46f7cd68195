"""What boto3 reads and parses for its first clients, done once in the process that ``tests.processes`` forks from."""

from __future__ import annotations

import boto3

SESSION = boto3.session.Session(region_name="eu-west-1")
for service in ("s3", "secretsmanager", "kms", "resourcegroupstaggingapi"):
    SESSION.client(service)
