//! Tags of an object: PutObjectTagging, GetObjectTagging, DeleteObjectTagging.
//!
//! Which version gets them is judged by the partition, together with the change: a write that is under way at the same time
//! comes before or after it, and never loses to it.

use super::{Current, Operations, check_key, marker_error, soon};
use crate::revision::{self, Witness};
use crate::tags;
use crate::version::{self, Named};
use http::{HeaderMap, StatusCode};
use metadata::BucketRef;
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result};

impl Operations {
    pub(super) async fn put_object_tagging(&self, req: S3Request<PutObjectTaggingInput>) -> S3Result<S3Response<PutObjectTaggingOutput>> {
        let input = req.input;
        let named = version::named(input.version_id.as_deref())?;
        let tags = tags::of_document(input.tagging.tag_set)?;
        let (version_id, headers) = self.set_tags(&input.bucket, &input.key, named, tags).await?;
        Ok(S3Response::with_headers(PutObjectTaggingOutput { version_id }, headers))
    }

    pub(super) async fn delete_object_tagging(
        &self,
        req: S3Request<DeleteObjectTaggingInput>,
    ) -> S3Result<S3Response<DeleteObjectTaggingOutput>> {
        let input = req.input;
        let named = version::named(input.version_id.as_deref())?;
        let (version_id, headers) = self.set_tags(&input.bucket, &input.key, named, Vec::new()).await?;
        let mut response = S3Response::with_status(DeleteObjectTaggingOutput { version_id }, StatusCode::NO_CONTENT);
        response.headers = headers;
        Ok(response)
    }

    pub(super) async fn get_object_tagging(&self, req: S3Request<GetObjectTaggingInput>) -> S3Result<S3Response<GetObjectTaggingOutput>> {
        let input = req.input;
        check_key(&input.key)?;
        let named = version::named(input.version_id.as_deref())?;
        let Current { record, seen, version, .. } = self.read_record(&input.bucket, &input.key, named).await?;
        let tag_set = record.tags.into_iter().map(|(key, value)| Tag { key: Some(key), value: Some(value) }).collect();
        Ok(S3Response::with_headers(GetObjectTaggingOutput { tag_set, version_id: version }, revision::headers(seen)))
    }

    /// The id of the version that has them now, if clients are told it, and what else the reply says.
    async fn set_tags(
        &self,
        bucket: &str,
        key: &str,
        named: Option<Named>,
        tags: Vec<(String, String)>,
    ) -> S3Result<(Option<String>, HeaderMap)> {
        check_key(key)?;
        let deadline = soon();
        let (metadata, witness, tags) = (&self.cluster.metadata, &Witness::default(), &tags);
        let set = |bucket: BucketRef| async move {
            let version = named.map(|named| named.within(bucket.id));
            match witness.of(metadata.set_tags_seen(&bucket, key, version, tags.clone(), deadline).await) {
                Err(metadata::Error::Marked(marker)) => Ok(Err(marker)),
                other => other.map(Ok),
            }
        };
        let (bucket, set) = self.in_bucket(bucket, deadline, set).await.map_err(|error| witness.tell(error))?;
        match set {
            Ok(tagged) => Ok((tagged.version.map(|id| version::shown(bucket.id, id)), witness.headers())),
            Err(marker) => Err(revision::with_headers(marker_error(&bucket, marker, named), witness.headers())),
        }
    }
}

/// How many tags the object has, for GET and HEAD; nothing if it has none.
pub(super) fn count(tags: &[(String, String)]) -> HeaderMap {
    let name = http::HeaderName::from_static("x-amz-tagging-count");
    HeaderMap::from_iter((!tags.is_empty()).then(|| (name, http::HeaderValue::from(tags.len()))))
}
