"""Drives cloudsim with Alibaba's older SDK (aliyun-python-sdk-eci); only the endpoint is changed.

MERIDIAN_SDK_BACKEND is one entry of cloudsim's `backends` as JSON text. Exits 0 and prints `OK` when every
step did what the vendor's service would do.
"""

import json
import os
import time

from aliyunsdkcore.acs_exception.exceptions import ServerException
from aliyunsdkcore.auth.composer import rpc_signature_composer
from aliyunsdkcore.client import AcsClient
from aliyunsdkeci.request.v20180808.CreateContainerGroupRequest import CreateContainerGroupRequest
from aliyunsdkeci.request.v20180808.DeleteContainerGroupRequest import DeleteContainerGroupRequest
from aliyunsdkeci.request.v20180808.DeleteContainerGroupsRequest import DeleteContainerGroupsRequest
from aliyunsdkeci.request.v20180808.DescribeContainerGroupsRequest import DescribeContainerGroupsRequest
from aliyunsdkeci.request.v20180808.DescribeContainerLogRequest import DescribeContainerLogRequest
from aliyunsdkeci.request.v20180808.RestartContainerGroupRequest import RestartContainerGroupRequest
from aliyunsdkeci.request.v20180808.UpdateContainerGroupRequest import UpdateContainerGroupRequest

BACKEND = json.loads(os.environ["MERIDIAN_SDK_BACKEND"])
ENDPOINT = BACKEND["url"].split("://", 1)[1].rstrip("/")
WAIT_SECONDS = 30


def client(secret=None):
    return AcsClient(BACKEND["keyId"], secret or BACKEND["keySecret"], BACKEND["region"])


def send(api, request):
    request.set_endpoint(ENDPOINT)
    request.set_protocol_type("http")
    return json.loads(api.do_action_with_exception(request))


def check(is_good, what):
    if not is_good:
        raise SystemExit(f"failed: {what}")


def refused(call, code):
    try:
        call()
    except ServerException as error:
        check(error.get_error_code() == code, f"expected {code}, got {error}")
        return
    raise SystemExit(f"failed: expected {code}, got success")


def group(api, group_id):
    request = DescribeContainerGroupsRequest()
    request.set_ContainerGroupIds(json.dumps([group_id]))
    groups = send(api, request)["ContainerGroups"]
    return groups[0] if groups else None


def wait(api, group_id, status):
    end = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < end:
        found = group(api, group_id)
        if found and found["Status"] == status:
            return found
        time.sleep(0.1)
    raise SystemExit(f"failed: {group_id} did not become {status}")


def create(api, name):
    request = CreateContainerGroupRequest()
    request.set_ContainerGroupName(name)
    request.set_VSwitchId(BACKEND["zones"][0]["subnetId"])
    request.set_SecurityGroupId(BACKEND["securityGroupId"])
    request.set_RestartPolicy("Always")
    request.set_Containers([{
        "Name": "app", "Image": "nginx:1.25", "Cpu": 1.0, "Memory": 2.0,
        "Commands": ["sh", "-c"], "Args": ["echo 你好; sleep 3600"],
    }])
    return send(api, request)["ContainerGroupId"]


def by_id(kind, group_id):
    request = kind()
    request.set_ContainerGroupId(group_id)
    return request


def lifecycle(api):
    group_id = create(api, "legacy-1")
    found = wait(api, group_id, "Running")
    check((found["Cpu"], found["Memory"]) == (1.0, 2.0), f"size: {found['Cpu']}, {found['Memory']}")

    request = by_id(DescribeContainerLogRequest, group_id)
    request.set_ContainerName("app")
    content = send(api, request)["Content"]
    check("你好" in content, f"log: {content!r}")

    request = by_id(UpdateContainerGroupRequest, group_id)
    request.set_RestartPolicy("OnFailure")
    request.set_Tags([{"Key": "team", "Value": "blue"}])
    send(api, request)
    found = wait(api, group_id, "Running")
    check(found["RestartPolicy"] == "OnFailure", "updated restart policy")
    check(found["Tags"] == [{"Key": "team", "Value": "blue"}], "updated tags")

    send(api, by_id(RestartContainerGroupRequest, group_id))
    wait(api, group_id, "Running")
    send(api, by_id(DeleteContainerGroupRequest, group_id))
    check(group(api, group_id) is None, "a deleted instance is not listed")

    ids = [create(api, f"legacy-batch-{n}") for n in range(2)]
    request = DeleteContainerGroupsRequest()
    request.set_ContainerGroupIds(json.dumps(ids))
    send(api, request)
    check(all(group(api, group_id) is None for group_id in ids), "batch delete")


def errors(api):
    refused(lambda: send(api, by_id(DeleteContainerGroupRequest, "eci-nosuchinstance000000")),
            "InvalidParameter.NotFound")
    # The SDK turns a mismatch over the same string to sign into this code of its own.
    refused(lambda: group(client(secret="wrong"), "eci-x"), "InvalidAccessKeySecret")

    real = rpc_signature_composer.helper.get_iso_8061_date
    old = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 16 * 60))
    rpc_signature_composer.helper.get_iso_8061_date = lambda: old
    try:
        refused(lambda: group(api, "eci-x"), "InvalidTimeStamp.Expired")
    finally:
        rpc_signature_composer.helper.get_iso_8061_date = real


def main():
    api = client()
    lifecycle(api)
    errors(api)
    print("OK")


main()
