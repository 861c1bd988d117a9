//! Tags of a bucket: PutBucketTagging, GetBucketTagging, DeleteBucketTagging. They lie in the root group and steer nothing.

use super::{Operations, soon};
use crate::{error, tags};
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

impl Operations {
    pub(super) async fn put_bucket_tagging(&self, req: S3Request<PutBucketTaggingInput>) -> S3Result<S3Response<PutBucketTaggingOutput>> {
        let input = req.input;
        let tags = tags::of_bucket(input.tagging.tag_set)?;
        self.cluster.placement.set_bucket_tags(&input.bucket, tags, soon()).await.map_err(error::of_placement)?;
        Ok(S3Response::new(PutBucketTaggingOutput::default()))
    }

    pub(super) async fn delete_bucket_tagging(
        &self,
        req: S3Request<DeleteBucketTaggingInput>,
    ) -> S3Result<S3Response<DeleteBucketTaggingOutput>> {
        self.cluster.placement.set_bucket_tags(&req.input.bucket, Vec::new(), soon()).await.map_err(error::of_placement)?;
        Ok(S3Response::new(DeleteBucketTaggingOutput::default()))
    }

    pub(super) async fn get_bucket_tagging(&self, req: S3Request<GetBucketTaggingInput>) -> S3Result<S3Response<GetBucketTaggingOutput>> {
        let tags = self.cluster.placement.bucket_tags(&req.input.bucket, soon()).await.map_err(error::of_placement)?;
        if tags.is_empty() {
            return Err(s3_error!(NoSuchTagSet, "The TagSet does not exist"));
        }
        let tag_set = tags.into_iter().map(|(key, value)| Tag { key: Some(key), value: Some(value) }).collect();
        Ok(S3Response::new(GetBucketTaggingOutput { tag_set }))
    }
}
