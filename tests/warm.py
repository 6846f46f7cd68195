"""What boto3 reads and parses for its first clients, done once in the process that ``tests.processes`` forks from."""

from __future__ import annotations

from rotator import aws

for service in ("s3", "secretsmanager", "kms", "resourcegroupstaggingapi"):
    aws.client(service, "eu-west-1", "http://127.0.0.1:9")
