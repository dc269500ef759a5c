//! ECI's protocol over real sockets: signatures, methods, encodings, refusals of what cannot be read.

use serde_json::Value;

use crate::eci_client::{Eci, V3, now_text, start};

fn list_all(eci: &Eci) -> V3 {
    eci.v3("DescribeContainerGroups", &[])
}

#[tokio::test]
async fn both_signatures_by_query_and_by_form() {
    let (_simulator, eci) = start(|_| {}).await;
    for method in ["GET", "POST"] {
        let request = V3 { method, ..list_all(&eci) };
        let reply = eci.send(&request).await.unwrap();
        let body = reply.ok();
        assert_eq!(body["TotalCount"], 0);
        let id = body["RequestId"].as_str().unwrap();
        assert_eq!(id, id.to_ascii_uppercase());
        assert_eq!((id.len(), id.matches('-').count()), (36, 4));
    }
    let mut form = list_all(&eci);
    form.form = std::mem::take(&mut form.query);
    eci.send(&form).await.unwrap().ok();
    let v1 = eci.call_v1("DescribeContainerGroups", &[("Format", "JSON"), ("SignatureType", "")]).await;
    assert_eq!(v1.ok()["TotalCount"], 0);
}

#[tokio::test]
async fn credentials_that_are_not_good() {
    let (_simulator, eci) = start(|_| {}).await;
    let wrong = V3 { secret: "wrong".to_owned(), ..list_all(&eci) };
    let reply = eci.send(&wrong).await.unwrap();
    reply.assert_code("SignatureDoesNotMatch", 400);
    assert!(reply.json()["Message"].as_str().unwrap().contains("server string to sign is:ACS3-HMAC-SHA256\n"));
    for shift in [-16 * 60, 16 * 60] {
        let late = V3 { date: now_text(shift), ..list_all(&eci) };
        eci.send(&late).await.unwrap().assert_code("InvalidTimeStamp.Expired", 400);
    }
    let mut stranger = eci.clone();
    stranger.backend.key_id = "LTAInobody".to_owned();
    stranger.call("DescribeContainerGroups", &[]).await.assert_code("InvalidAccessKeyId.NotFound", 404);
}

#[tokio::test]
async fn a_nonce_is_taken_once_and_not_spent_by_a_bad_signature() {
    let (_simulator, eci) = start(|_| {}).await;
    let request = list_all(&eci);
    let forged = V3 { secret: "wrong".to_owned(), ..request.clone() };
    eci.send(&forged).await.unwrap().assert_code("SignatureDoesNotMatch", 400);
    eci.send(&request).await.unwrap().ok();
    eci.send(&request).await.unwrap().assert_code("SignatureNonceUsed", 400);
}

#[tokio::test]
async fn what_is_unknown_is_refused_by_name() {
    let (_simulator, eci) = start(|_| {}).await;
    eci.call("CreatePod", &[]).await.assert_code("InvalidAction", 403);
    eci.call("CreateDataCache", &[]).await.assert_code("UnsupportedOperation", 400);
    let get = V3 { method: "GET", ..eci.v3("DescribeContainerGroupStatus", &[]) };
    eci.send(&get).await.unwrap().assert_code("UnsupportedHTTPMethod", 400);
    let reply = eci.call("DescribeContainerGroups", &[("Lmit", "5")]).await;
    reply.assert_code("InvalidParameter", 400);
    assert!(reply.json()["Message"].as_str().unwrap().contains("Lmit"));
    eci.call("DescribeContainerGroups", &[("Limit", "21")]).await.assert_code("InvalidParameter", 400);
    eci.call("DescribeContainerGroups", &[("Limit", "many")]).await.assert_code("InvalidParameter", 400);
    eci.call("DescribeContainerGroups", &[("RegionId", "mars")]).await.assert_code("InvalidParameter", 400);
    eci.call("DeleteContainerGroup", &[]).await.assert_code("MissingParameter", 400);
}

#[tokio::test]
async fn v1_without_a_format_is_xml_also_for_errors() {
    let (_simulator, eci) = start(|_| {}).await;
    let reply = eci.call_v1("DescribeRegions", &[]).await;
    assert_eq!(reply.status, 200);
    assert!(reply.headers["content-type"].starts_with("text/xml"), "{:?}", reply.headers);
    assert!(
        reply.text.contains("<DescribeRegionsResponse>") && reply.text.contains("<RegionId>cn-hangzhou</RegionId>")
    );
    let error = eci.call_v1("DeleteContainerGroup", &[("ContainerGroupId", "eci-none")]).await;
    assert_eq!(error.status, 404);
    assert!(error.text.contains("<Error>") && error.text.contains("<Code>InvalidParameter.NotFound</Code>"));
}

#[tokio::test]
async fn errors_have_the_five_members() {
    let (_simulator, eci) = start(|_| {}).await;
    let reply = eci.call("DeleteContainerGroup", &[("ContainerGroupId", "eci-none")]).await;
    reply.assert_code("InvalidParameter.NotFound", 404);
    let body = reply.json();
    let mut names: Vec<&String> = body.as_object().unwrap().keys().collect();
    names.sort();
    assert_eq!(names, ["Code", "HostId", "Message", "Recommend", "RequestId"]);
    assert_eq!(body["HostId"], Value::from("eci.aliyuncs.com"));
}

#[tokio::test]
async fn another_regions_endpoint_knows_nothing_of_this_one() {
    let (simulator, eci) = start(|_| {}).await;
    let id = eci.created("web-1", &[]).await;
    let mut other = eci.clone();
    let backends = simulator.info().backends;
    other.backend = backends.into_iter().find(|one| one.region == "cn-beijing").unwrap();
    assert!(other.group(&id).await.is_null());
    other
        .call("DeleteContainerGroup", &[("ContainerGroupId", &id)])
        .await
        .assert_code("InvalidParameter.NotFound", 404);
    assert_eq!(eci.group(&id).await["ContainerGroupId"], id.as_str());
}
