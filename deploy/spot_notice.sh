#!/usr/bin/env bash
# Drain this node of Ray once EC2 announces, two minutes before, that it takes the spot instance back: no new task comes
# here, and Ray Train's workers can save. Ray does not ask EC2 by itself. On other than spot instances no notice comes.
metadata=${AWS_EC2_METADATA_SERVICE_ENDPOINT:-http://169.254.169.254}/latest

announced() {
    token=$(curl -sf -X PUT -H "X-aws-ec2-metadata-token-ttl-seconds: 60" "$metadata/api/token") &&
        curl -sf -H "X-aws-ec2-metadata-token: $token" "$metadata/meta-data/spot/instance-action"
}

until announced; do sleep "${1:-5}"; done
exec ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message "EC2 takes the spot instance back" \
    --deadline-remaining-seconds 110
