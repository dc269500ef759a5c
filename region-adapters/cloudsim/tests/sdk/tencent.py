"""tencentcloud-sdk-python-tke against simulated EKSCI: endpoint and scheme changed, nothing else."""

import json
import os
import time
from unittest import mock

from tencentcloud.common import credential
from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException
from tencentcloud.common.profile.client_profile import ClientProfile
from tencentcloud.common.profile.http_profile import HttpProfile
from tencentcloud.tke.v20180525 import models, tke_client

BACKEND = json.loads(os.environ["MERIDIAN_SDK_BACKEND"])
WAIT_SECS_MAX = 20


def client(secret=None, sign_method="TC3-HMAC-SHA256", method="POST"):
    http = HttpProfile(endpoint=BACKEND["url"].removeprefix("http://"), protocol="http", reqMethod=method)
    profile = ClientProfile(httpProfile=http, signMethod=sign_method)
    keys = credential.Credential(BACKEND["keyId"], secret or BACKEND["keySecret"])
    return tke_client.TkeClient(keys, BACKEND["region"], profile)


def request(kind, **params):
    made = kind()
    made.from_json_string(json.dumps(params))
    return made


def refused(code, call):
    try:
        call()
    except TencentCloudSDKException as error:
        assert error.get_code() == code, f"{error.get_code()} is not {code}: {error}"
        assert error.get_request_id(), "the error carries its request id"
        return
    raise AssertionError(f"{code} was expected")


def describe(tke, instance_id):
    reply = tke.DescribeEKSContainerInstances(
        request(models.DescribeEKSContainerInstancesRequest, EksCiIds=[instance_id])
    )
    return reply.EksCis[0] if reply.EksCis else None


def wait(tke, instance_id, status):
    until = time.monotonic() + WAIT_SECS_MAX
    while True:
        seen = describe(tke, instance_id)
        if seen is not None and seen.Status == status:
            return seen
        assert time.monotonic() < until, f"{instance_id} did not become {status}: {seen}"
        time.sleep(0.1)


def create(tke, name):
    reply = tke.CreateEKSContainerInstances(
        request(
            models.CreateEKSContainerInstancesRequest,
            EksCiName=name,
            Cpu=1.0,
            Memory=2.0,
            VpcId=BACKEND["vpcId"],
            SubnetId=BACKEND["zones"][0]["subnetId"],
            SecurityGroupIds=[BACKEND["securityGroupId"]],
            Containers=[
                {
                    "Name": "app",
                    "Image": "nginx:1.25",
                    "EnvironmentVars": [{"Name": "GREETING", "Value": "你好, café"}],
                    "LivenessProbe": {
                        "Probe": {"PeriodSeconds": 10},
                        "HttpGet": {"Path": "/", "Port": 80, "Scheme": "HTTP"},
                    },
                }
            ],
        )
    )
    (instance_id,) = reply.EksCiIds
    return instance_id


def journey(tke):
    instance_id = create(tke, "sdk-web")
    running = wait(tke, instance_id, "Running")
    assert running.EksCiName == "sdk-web"
    assert running.Containers[0].EnvironmentVars[0].Value == "你好, café"
    assert running.Containers[0].CurrentState.State == "running"
    assert running.Containers[0].LivenessProbe.HttpGet.Port == 80
    assert running.PrivateIp.startswith("10.")

    log = tke.DescribeEksContainerInstanceLog(
        request(models.DescribeEksContainerInstanceLogRequest, EksCiId=instance_id, ContainerName="app", Tail=100)
    )
    assert "started nginx:1.25" in log.LogContent, log.LogContent
    events = tke.DescribeEKSContainerInstanceEvent(
        request(models.DescribeEKSContainerInstanceEventRequest, EksCiId=instance_id)
    )
    assert "Started" in [event.Reason for event in events.Events]

    updated = tke.UpdateEKSContainerInstance(
        request(
            models.UpdateEKSContainerInstanceRequest,
            EksCiId=instance_id,
            Name="sdk-web-2",
            Containers=[{"Name": "app", "Image": "nginx:1.26"}],
        )
    )
    assert wait(tke, updated.EksCiId, "Running").Containers[0].Image == "nginx:1.26"

    tke.RestartEKSContainerInstances(request(models.RestartEKSContainerInstancesRequest, EksCiIds=[instance_id]))
    assert wait(tke, instance_id, "Running").Containers[0].RestartCount >= 1

    tke.DeleteEKSContainerInstances(request(models.DeleteEKSContainerInstancesRequest, EksCiIds=[instance_id]))
    assert describe(tke, instance_id) is None


def image_cache(tke):
    made = tke.CreateImageCache(
        request(
            models.CreateImageCacheRequest,
            Images=["nginx:1.25"],
            VpcId=BACKEND["vpcId"],
            SubnetId=BACKEND["zones"][0]["subnetId"],
        )
    )
    reply = tke.DescribeImageCaches(request(models.DescribeImageCachesRequest, ImageCacheIds=[made.ImageCacheId]))
    assert reply.ImageCaches[0].Status in ("Pending", "Ready")
    tke.DeleteImageCaches(request(models.DeleteImageCachesRequest, ImageCacheIds=[made.ImageCacheId]))


def errors(tke):
    listing = request(models.DescribeEKSContainerInstancesRequest)
    refused("AuthFailure.SignatureFailure", lambda: client(secret="wrong").DescribeEKSContainerInstances(listing))
    old = time.time() - 3600
    with mock.patch("time.time", return_value=old):
        refused("AuthFailure.SignatureExpire", lambda: client().DescribeEKSContainerInstances(listing))
    unknown = "eksci-00000000"
    assert describe(tke, unknown) is None
    refused(
        "ResourceNotFound",
        lambda: tke.DescribeEksContainerInstanceLog(
            request(models.DescribeEksContainerInstanceLogRequest, EksCiId=unknown)
        ),
    )
    refused(
        "ResourceNotFound",
        lambda: tke.DeleteEKSContainerInstances(
            request(models.DeleteEKSContainerInstancesRequest, EksCiIds=[unknown])
        ),
    )
    refused(
        "MissingParameter",
        lambda: tke.CreateEKSContainerInstances(request(models.CreateEKSContainerInstancesRequest, EksCiName="x")),
    )


def other_signatures():
    """The SDK's other ways to sign and send: GET, and the legacy v1 in both hashes."""
    for sign_method, method in [
        ("TC3-HMAC-SHA256", "GET"),
        ("HmacSHA256", "POST"),
        ("HmacSHA1", "GET"),
    ]:
        tke = client(sign_method=sign_method, method=method)
        instance_id = create(tke, f"sdk-{sign_method.lower()}-{method.lower()}")
        assert describe(tke, instance_id).Cpu == 1.0
        tke.DeleteEKSContainerInstances(request(models.DeleteEKSContainerInstancesRequest, EksCiIds=[instance_id]))


def main():
    tke = client()
    regions = tke.DescribeEKSContainerInstanceRegions(
        request(models.DescribeEKSContainerInstanceRegionsRequest)
    ).Regions
    assert BACKEND["region"] in [region.RegionName for region in regions]
    journey(tke)
    image_cache(tke)
    errors(tke)
    other_signatures()
    print("OK")


main()
