"""Drives cloudsim with Alibaba's own SDK (alibabacloud_eci20180808); only the endpoint is changed.

MERIDIAN_SDK_BACKEND is one entry of cloudsim's `backends` as JSON text. Exits 0 and prints `OK` when every
step did what the vendor's service would do.
"""

import datetime
import json
import os
import time

from alibabacloud_eci20180808 import models
from alibabacloud_eci20180808.client import Client
from alibabacloud_tea_openapi import exceptions
from alibabacloud_tea_openapi import models as openapi
from alibabacloud_tea_openapi.utils import Utils

BACKEND = json.loads(os.environ["MERIDIAN_SDK_BACKEND"])
REGION = BACKEND["region"]
WAIT_SECONDS = 30


def client(secret=None, algorithm=None):
    config = openapi.Config(
        access_key_id=BACKEND["keyId"],
        access_key_secret=secret or BACKEND["keySecret"],
        endpoint=BACKEND["url"].split("://", 1)[1].rstrip("/"),
        protocol="HTTP",
        region_id=REGION,
        signature_algorithm=algorithm,
    )
    return Client(config)


def check(is_good, what):
    if not is_good:
        raise SystemExit(f"failed: {what}")


def refused(call, code, kind):
    """The SDK must raise its own class with the vendor's code."""
    try:
        call()
    except kind as error:
        check(error.code == code, f"expected {code}, got {error.code}: {error}")
        return error
    raise SystemExit(f"failed: expected {code}, got success")


def group(api, group_id):
    request = models.DescribeContainerGroupsRequest(
        region_id=REGION, container_group_ids=json.dumps([group_id]), with_event=True)
    groups = api.describe_container_groups(request).body.container_groups
    return groups[0] if groups else None


def wait(api, group_id, status):
    end = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < end:
        found = group(api, group_id)
        if found and found.status == status:
            return found
        time.sleep(0.1)
    raise SystemExit(f"failed: {group_id} did not become {status}")


def create_request(name, token, **more):
    return models.CreateContainerGroupRequest(
        region_id=REGION,
        container_group_name=name,
        client_token=token,
        v_switch_id=",".join(zone["subnetId"] for zone in BACKEND["zones"]),
        security_group_id=BACKEND["securityGroupId"],
        schedule_strategy="VSwitchOrdered",
        cpu=2.0,
        memory=4.0,
        tag=[models.CreateContainerGroupRequestTag(key="team", value="red")],
        container=[models.CreateContainerGroupRequestContainer(
            name="app",
            image="nginx:1.25",
            command=["sh", "-c", "echo hello; sleep 3600"],
            environment_var=[models.CreateContainerGroupRequestContainerEnvironmentVar(key="A", value="1 2")],
        )],
        **more,
    )


def lifecycle(api, name):
    request = create_request(name, f"token-{name}")
    group_id = api.create_container_group(request).body.container_group_id
    again = api.create_container_group(request).body.container_group_id
    check(group_id == again, "the same client token must give the same instance")
    other = create_request(name, f"token-{name}", ephemeral_storage=20)
    refused(lambda: api.create_container_group(other), "IdempotentParameterMismatch", exceptions.ClientException)

    found = wait(api, group_id, "Running")
    check(found.zone_id == BACKEND["zones"][0]["zone"], "the first vSwitch decides the zone")
    check((found.cpu, found.memory) == (2.0, 4.0), "size")
    check(found.containers[0].environment_vars[0].value == "1 2", "environment")
    check(found.tags[0].value == "red", "tags")
    check(len(found.events) > 0, "events")

    log = api.describe_container_log(models.DescribeContainerLogRequest(
        region_id=REGION, container_group_id=group_id, container_name="app", tail=10)).body
    check("hello" in log.content, f"log: {log.content!r}")

    exec_request = models.ExecContainerCommandRequest(
        region_id=REGION, container_group_id=group_id, container_name="app",
        command=json.dumps(["sh", "-c", "echo $A"]), sync=True, tty=False, stdin=False)
    check(api.exec_container_command(exec_request).body.sync_response == "1 2\n", "exec")

    api.update_container_group(models.UpdateContainerGroupRequest(
        region_id=REGION, container_group_id=group_id, update_type="IncrementalUpdate", client_token=f"up-{name}",
        container=[models.UpdateContainerGroupRequestContainer(name="app", image="nginx:1.26")]))
    found = wait(api, group_id, "Running")
    check(found.containers[0].image == "nginx:1.26", "updated image")
    check(found.containers[0].commands[0] == "sh", "an incremental update keeps what it does not name")

    api.restart_container_group(models.RestartContainerGroupRequest(
        region_id=REGION, container_group_id=group_id, client_token=f"re-{name}"))
    wait(api, group_id, "Running")

    status = api.describe_container_group_status(models.DescribeContainerGroupStatusRequest(
        region_id=REGION, container_group_ids=json.dumps([group_id]))).body
    check(status.data[0].pod_status.phase == "Running", "pod status")

    api.delete_container_group(models.DeleteContainerGroupRequest(
        region_id=REGION, container_group_id=group_id, client_token=f"de-{name}"))
    check(group(api, group_id) is None, "a deleted instance is not listed")


def errors(api):
    refused(lambda: api.delete_container_group(models.DeleteContainerGroupRequest(
        region_id=REGION, container_group_id="eci-nosuchinstance000000")),
        "InvalidParameter.NotFound", exceptions.ClientException)
    refused(lambda: group(client(secret="wrong"), "eci-x"), "SignatureDoesNotMatch", exceptions.ClientException)
    dry = create_request("dry-run", None, dry_run=True)
    refused(lambda: api.create_container_group(dry), "DryRun.Success", exceptions.ClientException)

    old = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(minutes=16)
    real = Utils.get_timestamp
    Utils.get_timestamp = staticmethod(lambda: old.strftime("%Y-%m-%dT%H:%M:%SZ"))
    try:
        refused(lambda: group(api, "eci-x"), "InvalidTimeStamp.Expired", exceptions.ClientException)
    finally:
        Utils.get_timestamp = real


def market(api):
    regions = api.describe_regions(models.DescribeRegionsRequest()).body.regions
    mine = [region for region in regions if region.region_id == REGION]
    check(mine and BACKEND["zones"][0]["zone"] in mine[0].zones, "regions")
    price = api.describe_container_group_price(models.DescribeContainerGroupPriceRequest(
        region_id=REGION, cpu=2.0, memory=4.0, spot_strategy="SpotAsPriceGo")).body.price_info
    check(price.price.trade_price > 0, "price")
    check(len(price.spot_prices.spot_price) == len(BACKEND["zones"]), "spot prices")
    usage = api.list_usage(models.ListUsageRequest(region_id=REGION)).body.attributes
    check(usage["MaxCpu"] > 0, "usage")


def image_cache(api):
    cache_id = api.create_image_cache(models.CreateImageCacheRequest(
        region_id=REGION, image_cache_name="imc-1", image=["nginx:1.25"],
        v_switch_id=BACKEND["zones"][0]["subnetId"],
        security_group_id=BACKEND["securityGroupId"])).body.image_cache_id
    caches = api.describe_image_caches(models.DescribeImageCachesRequest(
        region_id=REGION, image_cache_id=cache_id)).body.image_caches
    check(caches[0].images == ["nginx:1.25"], "image cache")
    api.delete_image_cache(models.DeleteImageCacheRequest(region_id=REGION, image_cache_id=cache_id))


def main():
    api = client()
    lifecycle(api, "sdk-v3")
    # The same with the older signature that the SDK still offers.
    lifecycle(client(algorithm="v2"), "sdk-v1")
    errors(api)
    market(api)
    image_cache(api)
    print("OK")


main()
