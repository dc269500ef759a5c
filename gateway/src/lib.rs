//! Meridian: one endpoint in front of regional serverless container services.
